"""Campaigns: what is run (plan), running it (runner), what it left behind (records), intervals (statistics)."""
