"""One module a command: `Options`, `main(options) -> exit code`; heavy imports wait for main."""
