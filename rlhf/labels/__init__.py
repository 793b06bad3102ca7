"""The ranking store: tasks, slots, leases, answers; what many answers say together."""
