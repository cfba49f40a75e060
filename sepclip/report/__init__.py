"""The report page: what happened in a run, a sweep, an evaluation or two runs, as one HTML file to look and listen."""
