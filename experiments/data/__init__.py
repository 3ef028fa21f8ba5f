"""What problems a run searches: data sets, their records, and graders of their answers."""
