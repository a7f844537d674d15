"""Which recovery points a policy keeps, and until when: pure functions of the points and of time that passed."""
