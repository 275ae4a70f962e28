"""The synchronisation rules: who may go on when, and which rows travel in between."""
