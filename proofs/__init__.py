"""Long-running evidence that writes pages of docs/: which tricks work with which algorithms, what algorithms find."""
