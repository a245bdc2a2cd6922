"""What nobody foresaw: one window, period or question that fails must not keep the others."""

from datetime import timedelta
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from app.errors import StatementTimeout

# What a defect of ours, or a value nobody foresaw, raises. An unavailable database is neither; a
# statement that takes too long may be.
UNFORESEEN: Final = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    SQLAlchemyError,
    StatementTimeout,
)
UNFORESEEN_RETRY: Final = timedelta(hours=1)
