"""Science sample: short conversations of one or two questions, as chat messages."""

from __future__ import annotations

from make import Draw, Row, facts

# Each entry: question | answer, and for a conversation of two turns | question | answer.
CHATS = {
    "train": """
- What is an atom? | An atom is the smallest unit of a chemical element. | What is at its center? |
  A nucleus made of protons and neutrons, around which electrons move.
- Why is the sky blue? | Air scatters blue light from the Sun more than red light. | Then why are
  sunsets red? | At sunset, light crosses more air, so most of the blue is scattered away.
- What is photosynthesis? | It is how plants use light to make sugar from water and carbon dioxide.
  | Which gas do they release? | Oxygen.
- How far is the Moon from the Earth? | About 384,000 kilometers on average. | How long does light
  need for that? | About 1.3 seconds.
- What is gravity? | Gravity is the attraction between things that have mass. | Is it the same on
  the Moon? | No, gravity on the Moon's surface is about one sixth as strong as on Earth.
- What is DNA? | DNA is the molecule that carries genetic information in living things. | What shape
  does it have? | It is a double helix, like a twisted ladder.
- At which temperature does water boil? | At 100 degrees Celsius at sea level. | And on a high
  mountain? | At a lower temperature, because the air pressure is lower.
- What is a mammal? | An animal with hair or fur that feeds its young with milk. | Is a bat a
  mammal? | Yes, bats are mammals that can fly.
- What causes the tides? | Mainly the gravity of the Moon, and also that of the Sun. | How many high
  tides are there in a day? | Most coasts have two.
- What is sound? | Sound is a vibration that travels through air or another material. | Can it
  travel in empty space? | No, sound needs a material to travel through.
- What is an acid? | A substance with a pH below 7 when dissolved in water. | Can you give an
  example? | Vinegar contains acetic acid.
- Why does ice float? | Ice is less dense than liquid water. | Does that help fish? | Yes, ice on
  top keeps the water below from freezing as quickly.
- What is evolution? | It is the change of inherited traits in populations over generations. | Who
  is known for the idea of natural selection? | Charles Darwin and Alfred Russel Wallace.
- What is a solar eclipse? | The Moon passes between the Sun and the Earth and blocks sunlight. | In
  which phase is the Moon then? | New moon.
- What are the states of matter? | The common ones are solid, liquid and gas. | Is there another? |
  Yes, plasma, which is found in stars and lightning.
- What is friction? | A force that resists the sliding of surfaces against each other. | Is it ever
  useful? | Yes, it lets shoes and tires grip the ground.
- What do bees do for plants? | They carry pollen from flower to flower. | Why does that matter? |
  Many plants need it to make seeds and fruit.
- What is a fossil? | The preserved remains or traces of a living thing from long ago. | In which
  rocks are most of them found? | In sedimentary rocks.
- Why do we have seasons? | Because the axis of the Earth is tilted. | When does the north have
  summer? | When the North Pole leans toward the Sun.
- What is electricity? | It is the presence and flow of electric charge. | Which metal is often used
  for wires? | Copper, because it conducts well.
- Which planet is the largest in the solar system? | Jupiter.
- Which planet is closest to the Sun? | Mercury.
- Which planet is known for its bright rings? | Saturn.
- Why does Mars look red? | Its soil contains rust, which is iron oxide.
- Is the Sun a star or a planet? | The Sun is a star.
- How long does the Earth take to go around the Sun? | About 365 and a quarter days.
- What is a light-year? | The distance that light travels in one year.
- What is the chemical symbol of gold? | Au.
- Which element has the symbol Fe? | Iron.
- Which element is the lightest? | Hydrogen.
- What is table salt made of? | Sodium and chlorine.
- What is water made of? | Hydrogen and oxygen; each molecule is written H2O.
- Which gas makes up most of the air? | Nitrogen, with about 78 percent.
- What happens when iron rusts? | It reacts with oxygen and water to form iron oxide.
- What is diamond made of? | Pure carbon.
- Which metal is liquid at room temperature? | Mercury.
- What is a molecule? | Two or more atoms held together by chemical bonds.
- What is a cell in biology? | The smallest unit of life.
- What do mitochondria do? | They release energy from food for the cell.
- Where is DNA kept in a plant cell? | Mostly in the nucleus.
- What gives leaves their green color? | A pigment called chlorophyll.
- How do fish breathe? | They take oxygen from water through their gills.
- Are spiders insects? | No, spiders are arachnids and have eight legs.
- How many legs does an insect have? | Six.
- What does a caterpillar turn into? | A butterfly or a moth.
- Which is the largest living animal? | The blue whale.
- What do herbivores eat? | Plants.
- What is a predator? | An animal that hunts other animals for food.
- What do decomposers do? | They break down dead plants and animals.
- Why do birds migrate? | Mostly to find food and good places to breed.
- What is the unit of force? | The newton.
- What does a thermometer measure? | Temperature.
- What is speed? | Distance divided by time.
- Which travels faster, light or sound? | Light travels far faster than sound.
- Why do we see lightning before we hear thunder? | Because light is much faster than sound.
- What does a magnet attract? | Iron, nickel, cobalt and some of their alloys.
- What happens to most metals when they are heated? | They expand.
- How does a lever help us? | It lets a small force move a heavy load.
- What is kinetic energy? | The energy that a thing has because it moves.
- Can energy be created from nothing? | No, energy is only changed from one form to another.
- What splits white light into colors? | A prism does, by bending each color differently.
- What is an echo? | A sound that is heard again after it bounces off a surface.
- What is a volcano? | An opening in the ground through which magma, ash and gas escape.
- What causes most earthquakes? | Sudden movement of rock along faults.
- Which layer is at the center of the Earth? | The inner core, which is mostly solid iron.
- How is sedimentary rock formed? | Layers of sand, mud or shells are pressed together over time.
- What is erosion? | The wearing away of soil and rock by water, wind or ice.
- What is a cloud made of? | Tiny drops of water or crystals of ice.
- What is humidity? | The amount of water vapor in the air.
- What does a barometer measure? | Air pressure.
- What is the water cycle? | Water evaporates, forms clouds, falls as rain and flows back to the
  sea.
- Which ocean is the largest? | The Pacific Ocean.
- What is a glacier? | A large mass of ice that moves slowly over land.
- What is a greenhouse gas? | A gas that traps heat in the air, such as carbon dioxide.
- What is renewable energy? | Energy from sources that are not used up, such as wind and sunlight.
- Why does the Moon shine? | It reflects light from the Sun.
- What is a comet? | A ball of ice and dust that forms a tail near the Sun.
- What is a galaxy? | A huge group of stars, gas and dust held together by gravity.
- Which galaxy do we live in? | The Milky Way.
- What is a vacuum? | A space with almost no matter in it.
- What is a catalyst? | A substance that speeds up a reaction and is not used up by it.
- What pH does pure water have? | About 7, which is neutral.
- What is an alloy? | A mixture of a metal with one or more other elements.
- Which two metals make bronze? | Mainly copper and tin.
- Why does soap remove grease? | One end of its molecules holds grease and the other holds water.
- What is melting? | The change of a solid into a liquid.
- What is condensation? | The change of a gas into a liquid.
- What is a hypothesis? | A possible explanation that can be tested.
- Why do scientists repeat experiments? | To check that a result was not due to chance.
- What is a control group? | A group in a test that does not get the treatment under study.
- What is a virus? | A tiny particle that can multiply only inside living cells.
- What are bacteria? | Tiny living things that consist of a single cell.
- What is yeast used for in bread? | It makes gas that lets the dough rise.
- What do roots do for a plant? | They hold it in the ground and take up water and minerals.
- Why do many trees drop their leaves in autumn? | To save water and energy during the cold season.
- Are whales fish? | No, whales are mammals and breathe air.
- What is a reptile? | An animal with scales whose body warms and cools with its surroundings.
- What is an amphibian? | An animal such as a frog that lives both in water and on land.
- What does a telescope do? | It makes distant things look larger and brighter.
- What does a microscope do? | It makes very small things large enough to see.
- What is an insulator? | A material through which heat or electricity passes poorly.
- What is a conductor? | A material that lets electricity or heat flow easily.
- What is a semiconductor? | A material that conducts better than an insulator but less than a
  metal.
""",
    "eval": """
- Tell me what an electron is. | It is a tiny particle with a negative electric charge. | Is it
  heavier than a proton? | No, a proton has about 1,800 times more mass.
- How do plants drink? | Water enters through the roots and rises through thin tubes. | What pulls
  it up? | Mostly the evaporation of water from the leaves.
- Can you explain a lunar eclipse? | The Earth comes between the Sun and the Moon and shades the
  Moon. | Which phase does the Moon have then? | It is full.
- What are tectonic plates? | Large pieces of the outer shell of the Earth that move slowly. | How
  fast do they move? | A few centimeters a year.
- Why does a compass point north? | Its needle lines up with the magnetic field of the Earth. | Who
  uses it? | Sailors and hikers, for example.
- How hot is the surface of the Sun? | About 5,500 degrees Celsius.
- What color does litmus turn in acid? | Red.
- How do insects breathe? | They breathe through small air tubes.
- What force keeps planets in their orbits? | The gravity of the Sun.
- Which element do all organic compounds contain? | Carbon.
- Do plants breathe at night? | Yes, they take in oxygen and release carbon dioxide.
- What is freezing? | A liquid turns into a solid.
- Which sense do bats use to find their way in the dark? | Hearing: they listen to their own echoes.
- Who is a paleontologist? | A scientist who studies fossils.
- Is glass a good conductor? | No, it conducts electricity poorly.
- What does an omnivore eat? | Both plants and animals.
- How many planets orbit the Sun? | Eight.
- Where does rain come from? | From drops in clouds that have become too heavy to stay up.
- What unit is used for electric current? | The ampere.
- Why are polar bears hard to see in snow? | Their fur looks white.
- Which gas do we need to burn wood? | Oxygen.
- What do tadpoles become? | Frogs or toads.
- What is the speed of light? | About 300,000 kilometers per second.
- Name the gas in the bubbles of soda. | Carbon dioxide.
- Which part of a flower makes pollen? | The stamen.
- What makes a rainbow? | Sunlight that is bent and split inside drops of rain.
- How old is the Earth? | About 4.5 billion years.
""",
}
CHINESE_CHATS = {
    "train": """
- 水由什么元素组成？ | 水由氢和氧组成。 | 水的化学式是什么？ | H2O。
- 什么是光合作用？ | 植物利用光把水和二氧化碳变成糖的过程。 | 它会放出什么气体？ | 氧气。
- 月亮自己会发光吗？ | 不会，月亮反射太阳的光。 | 月亮绕什么转动？ | 绕地球转动。
- 声音能在真空中传播吗？ | 不能，声音需要介质。 | 光可以吗？ | 可以，光能在真空中传播。
- 鲸鱼是鱼吗？ | 不是，鲸是哺乳动物。 | 它用什么呼吸？ | 用肺呼吸。
- 太阳系中最大的行星是哪一颗？ | 木星。
- 空气中含量最多的气体是什么？ | 氮气。
- 昆虫有几条腿？ | 六条腿。
- 铁的化学符号是什么？ | Fe。
- 温度计测量什么？ | 测量温度。
- 力的单位是什么？ | 牛顿。
- 钻石由什么元素组成？ | 碳。
- 为什么先看到闪电后听到雷声？ | 因为光比声音快得多。
- 什么是化石？ | 很久以前的生物留下的遗体或痕迹。
- 蜘蛛是昆虫吗？ | 不是，蜘蛛有八条腿，属于蛛形纲。
- 冰为什么浮在水上？ | 因为冰的密度比水小。
- 鱼用什么呼吸？ | 用鳃呼吸。
- 引起潮汐的主要原因是什么？ | 月球的引力。
- 什么是细胞？ | 细胞是生命的基本单位。
""",
    "eval": """
- 彩虹是怎样形成的？ | 阳光在雨滴中折射和反射，分成不同颜色。 | 通常说有几种颜色？ | 七种。
- 地球绕太阳一周要多久？ | 大约一年。
- 哪种金属在常温下是液体？ | 汞。
- 青蛙小时候叫什么？ | 蝌蚪。
- 植物的根有什么作用？ | 固定植物并吸收水和无机盐。
""",
}
ROLES = ("user", "assistant")


def rows(split: str, draw: Draw) -> list[Row]:
    """One conversation for each entry."""
    chats = facts(CHATS[split]) + facts(CHINESE_CHATS[split], "")
    return [
        {"messages": [{"role": ROLES[i % 2], "content": turn} for i, turn in enumerate(chat)]}
        for chat in chats
    ]
