"""The last gate before the arm, and its bridges."""
