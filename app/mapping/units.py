"""Units in words: exact amounts as people read them. Pure."""

from fractions import Fraction


def exact_text(amount: Fraction) -> str:
    """An exact amount: as a decimal where it has an end, else as a fraction."""
    twos = fives = 0
    rest = amount.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return str(amount)
    places = max(twos, fives)
    digits = f"{abs(amount.numerator) * 10**places // amount.denominator:0{places + 1}d}"
    sign = "-" if amount < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
