"""Privacy accounts: what each release costs, the budget, and the ledger that is written before a release."""
