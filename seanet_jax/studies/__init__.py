"""Studies of many runs: what is trained, counted, tested, drawn and written down to compare networks."""
