"""What strangers may hand in, spoilt in every way that we can think of: readers that tests, a counted
run and a coverage-guided fuzzer share."""
