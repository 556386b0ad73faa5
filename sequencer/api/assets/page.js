// Once a second the server renders what changes; this puts it in place. A page in the background asks for nothing.
"use strict";

const live = document.getElementById("live");
const INTERVAL_MS = 1000;

async function refresh() {
  if (document.hidden) return;
  try {
    const response = await fetch("/?part=live", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(String(response.status));
    live.innerHTML = await response.text();
    document.body.classList.remove("lost");
  } catch {
    document.body.classList.add("lost");
  }
}

async function run() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, INTERVAL_MS));
    await refresh();
  }
}

run();
