"""How long the work takes, how much of it there is, and how fast this machine could do it (`vla-align bench`)."""
