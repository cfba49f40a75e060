"""wsj0-2mix and wsj0-3mix."""
