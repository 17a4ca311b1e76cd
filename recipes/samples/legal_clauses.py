"""Contract clauses of the train split, as sentence patterns for each label.

{a} provides the {thing} and is paid by {b}. The classes share parties, sums, dates and states, and
often name each other's subjects, so that no single word gives a class away.
"""

TRAIN = {
    "Governing law": """
- The laws of {state} decide every question about the meaning and effect of this {doc}, wherever
  the {a} or the {b} is based.
- This {doc} is read and enforced under {state} law, without regard to conflict of laws rules that
  would point elsewhere.
- If a dispute arises over the {thing}, the rules of {state} apply to it, even where the {b} is
  located in another state.
- The parties choose {state} law for this {doc} and for any claim about unpaid sums, notice or delay
  connected with it.
- Any court hearing a case about this {doc} shall apply the substantive law of {state} and no other.
- No law other than that of {state} controls the rights and duties of the {a} and the {b} under this
  {doc}.
- Questions about whether this {doc} is valid or has ended are answered by the statutes and case law
  of {state}.
- Since the {b} is located in {state}, the parties agree that its law shall control this {doc} in
  all respects.
- International conventions on contracts are excluded, and the domestic law of {state} takes their
  place for this {doc}.
- This {doc} was signed on {date} and is subject to the legal system of {state}, including its
  limitation periods.
- The {a} and the {b} accept that their contract, and each order made under it, falls under {state}
  law.
- Interpretation of every section of this {doc} follows the law in force in {state} on {date}.
- {state} law applies to this {doc}, and the {a} waives the law of any other place.
- The {a} and the {b} submit the meaning of this {doc} to the law of {state}.
- Contract disputes between the {a} and the {b} are resolved under {state} law only.
- The law of {state}, where the {b} is based, governs this {doc} and every change to it.
- Foreign law is set aside; {state} statutes alone govern how the {a} must perform.
- An arbitrator shall decide claims about the {thing} according to the law of {state}.
- Breach, damages and notice under this {doc} are judged by the law of {state}.
- The choice of {state} law extends to tort claims that relate to this {doc}.
""",
    "Termination": """
- Either party may end this {doc} by giving the other at least {n} days' written notice, without
  stating a reason.
- The {b} may cancel this {doc} at once if the {a} fails to provide the {thing} by {date}.
- If a material breach is not cured within {n} days of notice, the innocent party may bring this
  {doc} to an end.
- This {doc} stops automatically on {date} unless the {a} and the {b} renew it in writing before
  then.
- The {a} may withdraw from this {doc} when an invoice for {sum} or more stays unpaid for over {n}
  days.
- If either party becomes insolvent, the other may cancel the remaining term of this {doc} with
  immediate effect.
- When this {doc} comes to an end, the {b} shall stop using the {thing} and settle all sums still
  due.
- A party that wishes to leave this {doc} early must tell the other {n} days ahead and pay {sum} in
  compensation.
- The right of the {a} to cancel this {doc} is not lost because it accepted an earlier breach by the
  {b}.
- After the first year, the {b} may bring this {doc} to a close at the end of any month on {n} days'
  notice.
- The {a} may end its duties early if a change in the law of {state} makes providing the {thing}
  unlawful.
- Ending this {doc} does not affect amounts owed or private information received before the end
  date.
- The {b} may quit this {doc} on {n} days' notice and owes no further fee.
- This {doc} expires on {date} and is not renewed if the parties remain silent.
- The {a} may declare this {doc} at an end if the {b} goes bankrupt.
- By mutual written consent, the {a} and the {b} may end this {doc} at any time.
- A gross breach of duty lets the other party end this {doc} without notice.
- A notice to end this {doc} must reach the {a} no later than {date}.
- Once this {doc} is over, the {a} returns any advance above {sum} to the {b}.
- If the {b} is late twice with its payments, the {a} may end this {doc}.
""",
    "Confidentiality": """
- The {b} shall keep secret all business information learned from the {a} and use it only to perform
  this {doc}.
- Neither party may disclose the prices or terms of this {doc} to outsiders without the other's
  written consent.
- Staff of the {a} who see private data of the {b} must not reveal it for {years} years after
  {date}.
- Information marked as private stays the property of the party that disclosed it and must be
  returned on request.
- The {a} may share the {b}'s trade secrets only with employees who need to know them and are bound
  to silence.
- This duty of secrecy does not cover facts already public or facts a court in {state} orders a
  party to reveal.
- For {years} years after this {doc} ends, the {b} shall not pass on what it has learned about the
  {thing}.
- Documents, drawings and price lists exchanged between the parties are not to be shown to any third
  party.
- If the {b} is required by law to release protected information, it shall first notify the {a}
  within {n} days.
- The {a} shall guard the {b}'s customer lists with the same care that it uses for its own sensitive
  records.
- The existence of this {doc}, and the sum of {sum} named in it, may not be mentioned in any press
  release.
- Within {n} days of a request, the {b} shall destroy all copies of the {a}'s non-public material
  and confirm this in writing.
- The {b} shall not tell rivals of the {a} anything about the {thing}.
- Secret data of either party may be used only to carry out this {doc}.
- The {a} must not disclose to anyone what it sees at the offices of the {b}.
- All records of the {a} are confidential unless they are already known to the public.
- Employees of the {b} sign a promise of secrecy before they start work.
- Leaking plans of the {a} to the press is a breach of this {doc}.
- The parties keep the terms of this {doc} private for {years} years after {date}.
- Secret papers of the {b} must be handed back or shredded by {date}.
""",
    "Indemnification": """
- The {a} shall indemnify the {b} against all claims by third parties that arise from its own
  negligence.
- The {b} shall hold the {a} harmless from losses, fines and legal fees caused by misuse of the
  {thing}.
- If a third party sues the {b} over the {thing}, the {a} shall defend the case and pay any
  judgment.
- The {a} shall make good every loss the {b} suffers because a patent or copyright of others is
  infringed.
- Each party covers the other's reasonable attorney fees when its own breach leads to a lawsuit by
  an outsider.
- The {b} shall reimburse the {a} for penalties of a {state} authority that result from the {b}'s
  acts.
- A party seeking to be held harmless must report the third-party claim within {n} days and let the
  other control the defense.
- The {a} shall compensate the {b} for injury claims by the {a}'s workers, including settlements
  above {sum}.
- Damage to the property of others is borne by the {b} if its staff caused it, and the {a} is
  protected from resulting claims.
- The {a} agrees to stand behind the {b} and meet the cost of any suit alleging that the {thing}
  caused harm.
- Fines or claims imposed on the {a} by reason of the {b}'s conduct shall be repaid to the {a} in
  full.
- The duty to defend and hold harmless continues for {years} years after this {doc} has ended.
- The {b} shall bear all costs if an outsider sues the {a} because of the {b}.
- The {a} pays for the defense when the {b} is sued over the {thing}.
- The {a} shall cover fines imposed on the {b} through the fault of the {a}.
- The {b} protects the {a} and its agents from the claims of third parties.
- Losses of the {b} from a lawsuit over the {thing} are made good by the {a}.
- The {b} shall indemnify the {a} for legal fees of {sum} or more.
- The indemnifying party chooses the lawyer and controls the defense of the third-party claim.
- Should a stranger sue the {b} over the {thing}, the {a} shall hold it harmless.
""",
    "Payment": """
- The {b} shall pay each invoice within {n} days of receipt by bank transfer to the account named by
  the {a}.
- A late charge of {pct} percent per month is added to any amount that remains unpaid after {date}.
- The price for the {thing} is {sum}, half due on signing and the rest on {date}.
- The {a} shall bill the {b} on the last day of each month for everything provided in that month.
- All fees are stated in dollars and exclude sales tax in {state}, which the {b} shall bear.
- If the {b} disputes a bill, it shall still pay the part not in dispute and explain its objection
  within {n} days.
- A deposit of {sum} is due before the {a} starts, and it counts toward the final invoice.
- The {b} shall refund travel costs of the {a} at the actual price against receipts, up to {sum} a
  month.
- Sums owed under this {doc} bear interest at {pct} percent a year from the due date until they are
  settled.
- The {a} may raise its rates once a year by at most {pct} percent after giving {n} days' notice.
- In exchange for the {thing}, the {b} shall transfer {sum} in {k} equal monthly installments
  beginning on {date}.
- The {b} may not set off or hold back any part of the fee because of a claim against the {a}.
- The {b} pays the {a} {sum} each month, on or before the fifth day.
- Bills of the {a} are payable by the {b} within {n} days without deduction.
- The fee for the {thing} is {sum} a year and includes all taxes.
- Late sums carry interest at {pct} percent until the {b} has paid them.
- The {b} shall make a down payment of {sum} to the {a} by {date}.
- The {a} sends its invoice for {sum} once the {b} has accepted the {thing}.
- All prices of the {a} are net, and the {b} pays them by check or wire.
- Fees for the first year stay at {sum}; later they may go up by {pct} percent.
""",
    "Assignment": """
- Neither party may transfer its rights or duties under this {doc} without the prior written consent
  of the other.
- The {a} may hand over this {doc} to a company that buys all of its business, on {n} days' notice.
- Any attempt by the {b} to pass its position under this {doc} to someone else without approval is
  void.
- This {doc} is binding on the successors and permitted transferees of the {a} and the {b}.
- The {b} shall not sell, transfer or delegate its interest in this {doc} to a third party unless
  the {a} agrees in writing.
- The {a} may transfer its claim to the sum of {sum} to a bank, but not its other duties.
- A change in control of the {b} counts as a transfer of this {doc} and needs the approval of the
  {a}.
- If the {a} moves its {state} business into an affiliate, that affiliate steps into this {doc} in
  its place.
- The {b} may not substitute another person for itself under this {doc}, whether by sale, merger or
  operation of law.
- Consent to a transfer of this {doc} shall not be withheld without good reason and is given within
  {n} days.
- After a permitted transfer, the old party stays liable with the new one for duties that fell due
  before {date}.
- The {a} may delegate its duties under this {doc} to an affiliate but remains responsible to the
  {b} for them.
- The {b} may not transfer this {doc} to anyone without the consent of the {a}.
- With written consent, the {b} may have another company take over this {doc}.
- The {a} may assign to a bank its right to be paid {sum}.
- This {doc} passes to whoever buys the business of the {a} before {date}.
- Transfers of this {doc} made without the approval of the {a} are void.
- The rights of the {b} are personal to it and cannot be passed to others.
- The {b} may move this {doc} to an affiliate after {n} days' notice.
- A new owner of the {a} takes over all its duties under this {doc}.
""",
    "Liability limit": """
- The total liability of the {a} under this {doc} shall not exceed {sum}, whatever the cause of the
  claim.
- Neither party is liable to the other for lost profits, lost data or other indirect loss.
- The {a} owes no more in damages than the fees the {b} paid in the {k} months before the claim.
- The {b} can recover at most {sum} from the {a} for any defect in the {thing}.
- Nothing in this {doc} caps liability for fraud, death or injury, but all other claims are capped
  at {sum}.
- The {a} is not answerable for consequential or punitive damages, even if it knew that they were
  possible.
- Claims against the {a} are barred unless raised within {n} days and are limited to direct damage.
- The {a}'s responsibility for slight negligence is excluded, as far as the law of {state} allows.
- In no event shall either party's aggregate exposure under this {doc} be greater than twice the
  annual fee.
- The {b}'s only remedy for faults in the {thing} is a correction or a refund of the price paid.
- The ceiling of {sum} on damages applies to all claims together and not to each claim on its own.
- Damages for late performance are restricted to {pct} percent of the price, and no further loss can
  be claimed.
- The {a} is liable to the {b} for at most {sum} under this {doc}.
- Lost profit and loss of business cannot be recovered from the {a} in any case.
- Damages owed by the {a} to the {b} are limited to {sum} a year.
- The {a} is not responsible for indirect damage that the {b} may suffer.
- Except for fraud, no party to this {doc} pays more than {sum} in damages.
- The {a} excludes all liability to the {b} for loss of data or goodwill.
- Claims of the {b} for damages are capped at the price of the {thing}.
- Liability for minor fault is excluded, and otherwise it is limited to foreseeable loss.
""",
    "Force majeure": """
- Neither party is in breach when a flood, war, strike or other event beyond its control prevents
  performance.
- If an earthquake or epidemic delays the {a}, its time to provide the {thing} is extended by the
  same period.
- A party stopped by an act of God shall notify the other within {n} days and resume once the event
  is over.
- The {a} is excused from its duties for as long as a government embargo in {state} makes providing
  the {thing} impossible.
- Where a power failure or riot lasts more than {n} days, either party may suspend its duties
  without penalty.
- Storms, fires and acts of terrorism that no one could foresee release the {b} from its duties
  while they last.
- Lack of money is not an event beyond control and never excuses the {b} from paying {sum} when due.
- The party relying on an unforeseeable event must show that it took every reasonable step to avoid
  the delay.
- Deadlines under this {doc} are put on hold during a national emergency, quarantine or general
  strike.
- No damages are owed for a delay caused by natural disaster, provided that the {a} told the {b}
  within {n} days.
- If a hurricane or civil unrest keeps the {a} from providing the {thing}, performance is suspended
  and no fee is due.
- An event outside the parties' reasonable control, such as war or sabotage, that lasts over {n}
  days permits either to cancel.
- Floods, fires and wars excuse a party that cannot perform because of them.
- The {a} is not at fault if a storm stops it from providing the {thing}.
- During an epidemic or a curfew, the duties of the {b} are suspended.
- Events that no one can foresee or control are not a breach of this {doc}.
- A strike or road closure moves the due dates of the {a} back by its length.
- The {a} must report a natural disaster to the {b} within {n} days of its start.
- If an act of war prevents performance, the {b} owes nothing for that time.
- Riots and power cuts free both parties from their duties for as long as they last.
""",
}
