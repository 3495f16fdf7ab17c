"""The leaderboard as a folder of static pages: no server, no external request, works from file://."""
