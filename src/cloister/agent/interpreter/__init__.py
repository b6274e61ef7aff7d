"""The code interpreter: contexts, the kernels behind them, and their HTTP face."""
