"""What the tests run with: a local AWS, a stand-in for Spark, stages, mailboxes, faults."""
