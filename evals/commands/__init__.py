"""One module a command: `add_arguments(parser)`, `main(args) -> exit code`; heavy imports wait for main."""
