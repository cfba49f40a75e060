"""Networks, losses and what turns them into a separator. Knows ``audio``."""
