"""How a puppet's moves become messages of each family of protocols: ``craft.py`` says what a craft does,
``registry.py`` finds the one
that speaks a protocol's messages."""
