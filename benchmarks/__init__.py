"""Speed, measured side by side: ``python -m benchmarks`` runs all, ``python -m benchmarks NAME`` one."""
