"""What everything else is built on: units, records, mechanics, neighbours, conservation laws, files."""
