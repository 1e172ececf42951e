"""What hostile clients may do to a real Muster, at a length that the test run has no time for."""
