"""What this project costs, measured beside what it replaces. Scripts of the source tree."""
