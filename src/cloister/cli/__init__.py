"""The command line: reads the configuration and puts the processes together. One file a subcommand."""
