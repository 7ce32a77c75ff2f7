"""What the books say: figures, reports, checks. It reads; only days are rolled up and months closed here."""
