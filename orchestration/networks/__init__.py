"""The networks that failed-over machines are on: bridges, taps, addresses, and what a test has of its own."""
