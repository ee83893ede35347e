"""The harness: relaxation, energies, sanity, matching, metrics and tables."""
