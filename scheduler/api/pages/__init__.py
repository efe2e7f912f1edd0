"""Pages for people: batches, pictures, one job's story, drift, budgets; HTML made here, without a build.

They read through `db` and act through the functions that the command line calls. Each page works without
scripts; scripts only refresh what runs, keep the theme and spare clicks.
"""
