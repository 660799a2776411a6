"""It never hangs, never lies, never leaks: each promise of docs/explanation/reliability.md as a test."""
