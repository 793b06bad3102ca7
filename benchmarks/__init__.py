"""Side-by-side timings against other programs; `make bench` runs them, docs/performance.md tells what they found."""
