"""The published system's tables and figures from its stated numbers, and what of them adds up."""
