"""Subjects that have usage, but no mapping for it, as the database knows them."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import text, transaction
from app.mapping.reasons import ParkReason


async def unmapped_subjects(engine: AsyncEngine, *, most: int) -> list[str]:
    """At most so many, by name: those without any mapping, and those with parked windows that no
    span of theirs covers."""
    async with transaction(engine) as connection:
        found = await connection.execute(
            text(
                """
                select subject from usage_series u
                where not exists (select 1 from subject_mappings m where m.subject = u.subject)
                union
                select subject from usage_windows where state = 'parked' and reason = :reason
                order by subject limit :most
                """
            ),
            {"reason": ParkReason.NO_SUBJECT_MAPPING.value, "most": most},
        )
        return list(found.scalars())
