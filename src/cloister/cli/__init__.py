"""The command line: one module for each subcommand, which parses options, reads the settings and calls the code below."""
