"""From a scan folder to things people read: one HTML page, pictures and a CSV for papers, a table for the terminal."""
