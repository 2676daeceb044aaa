"""Cost programs from text: scanned, parsed, allow-listed, typed and evaluated, never run as Python."""
