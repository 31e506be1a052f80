"""What a user asks of the command line: their words in, a library call, their words out."""
