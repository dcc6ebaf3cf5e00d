"""Speed and memory beside other trainers, honestly: fresh processes, the same tokens, a correctness gate first."""
