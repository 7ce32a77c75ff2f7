"""From the relays' own counters to the books: `counting` decides (pure), `reading` asks, `books` writes."""
