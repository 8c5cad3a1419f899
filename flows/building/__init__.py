"""A build, step by step: plan, process each study, commit, report."""
