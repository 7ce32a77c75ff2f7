"""Who may use a customer's relays: the policy and its versions, the decision at the door, and the log of it."""
