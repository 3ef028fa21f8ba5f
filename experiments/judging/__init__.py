"""`headrace judge`: what verifiers say of the same solutions."""
