"""What a command found for other programs: CSV, lines of JSON, Markdown, JUnit's XML, GitHub's workflow commands."""
