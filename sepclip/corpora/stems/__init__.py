"""Music as stems: MUSDB18, and any folder of tracks."""
