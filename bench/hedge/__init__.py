"""What hedged reads cost a healthy net, and what they save when a server is late."""
