// Compiles token.sol to standard output as token.json holds it. From this folder, with Node.js:
//
//     npm install --no-save solc@0.8.37 && node compile.js > token.json && rm -r node_modules
//
// The settings are all that the bytecode depends on; no metadata hash is appended, so that comments do not change it.
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const settings = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: "cancun",
  metadata: { appendCBOR: false, bytecodeHash: "none" },
  outputSelection: { "*": { Token: ["abi", "evm.bytecode.object"] } },
};
const source = fs.readFileSync(path.join(__dirname, "token.sol"), "utf8");
const input = { language: "Solidity", sources: { "token.sol": { content: source } }, settings };
const output = JSON.parse(solc.compile(JSON.stringify(input)));
for (const problem of output.errors || []) {
  console.error(problem.formattedMessage);
}
const token = output.contracts["token.sol"].Token;
const result = {
  source: "token.sol",
  compiler: solc.version(),
  settings: { optimizer: settings.optimizer, evmVersion: settings.evmVersion, metadata: settings.metadata },
  abi: token.abi,
  bytecode: "0x" + token.evm.bytecode.object,
};
console.log(JSON.stringify(result, null, 1));
