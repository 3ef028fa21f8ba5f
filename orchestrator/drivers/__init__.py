"""Many drivers for one run: Ray actors that run searches, and what the command that started them shares among them.

The command holds the jobs, the one writer of rows, the run's budget and its workloads. A driver gets a job for
each search that it has in flight, and asks the command for what is shared. A driver that dies costs time: its jobs go
to others.
"""
