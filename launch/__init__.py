"""What a person runs: the command line, one file for each stage."""
