"""The paper's claims and our goals, judged by rows of suites."""
