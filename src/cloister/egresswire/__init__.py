"""The contracts of the egress process: with the supervisor, which gives it policies, and with the api process, which gives it secrets."""
