"""The admin process: metrics, health, call figures and the operator's page, on an address of their own."""
